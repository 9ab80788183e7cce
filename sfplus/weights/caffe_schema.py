"""The part of Caffe's message format that face networks need, for protobuf's runtime.

The numbers are those of caffe.proto; from 164 on, of the forks that have these layers (ShuffleNet's, SSD's). Unlisted
fields are preserved in binary files, where protobuf keeps unknown fields, and skipped in text.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# field=number:type, `*` is repeated, `+` is repeated and packed (caffe.proto).
_MESSAGES = {
    "BlobShape": "dim=1:int64+",
    "BlobProto": "num=1:int32 channels=2:int32 height=3:int32 width=4:int32 data=5:float+ diff=6:float+"
    " shape=7:BlobShape double_data=8:double+ double_diff=9:double+",
    "FillerParameter": "type=1:string value=2:float min=3:float max=4:float mean=5:float std=6:float",
    "ParamSpec": "name=1:string lr_mult=3:float decay_mult=4:float",
    "NetState": "phase=1:Phase level=2:int32 stage=3:string*",
    "NetStateRule": "phase=1:Phase min_level=2:int32 max_level=3:int32 stage=4:string* not_stage=5:string*",
    "TransformationParameter": "scale=1:float mirror=2:bool crop_size=3:uint32 mean_value=5:float* force_gray=7:bool",
    "ImageDataParameter": "new_height=9:uint32 new_width=10:uint32 is_color=11:bool",
    "MemoryDataParameter": "batch_size=1:uint32 channels=2:uint32 height=3:uint32 width=4:uint32",
    "DummyDataParameter": "num=2:uint32* channels=3:uint32* height=4:uint32* width=5:uint32* shape=6:BlobShape*",
    "InputParameter": "shape=1:BlobShape*",
    "ConvolutionParameter": "num_output=1:uint32 bias_term=2:bool pad=3:uint32* kernel_size=4:uint32* group=5:uint32"
    " stride=6:uint32* weight_filler=7:FillerParameter bias_filler=8:FillerParameter pad_h=9:uint32 pad_w=10:uint32"
    " kernel_h=11:uint32 kernel_w=12:uint32 stride_h=13:uint32 stride_w=14:uint32 dilation=18:uint32*",
    "InnerProductParameter": "num_output=1:uint32 bias_term=2:bool weight_filler=3:FillerParameter"
    " bias_filler=4:FillerParameter axis=5:int32 transpose=6:bool",
    "PReLUParameter": "filler=1:FillerParameter channel_shared=2:bool",
    "ReLUParameter": "negative_slope=1:float",
    "EltwiseParameter": "operation=1:EltwiseOp coeff=2:float*",
    "PoolingParameter": "pool=1:PoolMethod kernel_size=2:uint32 stride=3:uint32 pad=4:uint32 kernel_h=5:uint32"
    " kernel_w=6:uint32 stride_h=7:uint32 stride_w=8:uint32 pad_h=9:uint32 pad_w=10:uint32 global_pooling=12:bool"
    " round_mode=13:RoundMode ceil_mode=1013:bool",
    "LRNParameter": "local_size=1:uint32 alpha=2:float beta=3:float norm_region=4:NormRegion k=5:float",
    "PowerParameter": "power=1:float scale=2:float shift=3:float",
    "ExpParameter": "base=1:float scale=2:float shift=3:float",
    "LogParameter": "base=1:float scale=2:float shift=3:float",
    "ELUParameter": "alpha=1:float",
    "ClipParameter": "min=1:float max=2:float",
    "SwishParameter": "beta=1:float",
    "ReshapeParameter": "shape=1:BlobShape axis=2:int32 num_axes=3:int32",
    "CropParameter": "axis=1:int32 offset=2:uint32*",
    "BiasParameter": "axis=1:int32 num_axes=2:int32 filler=3:FillerParameter",
    "PermuteParameter": "order=1:uint32*",
    "NormalizeBBoxParameter": "across_spatial=1:bool scale_filler=2:FillerParameter channel_shared=3:bool eps=4:float",
    "ShuffleChannelParameter": "group=1:uint32",
    "DropoutParameter": "dropout_ratio=1:float",
    "SoftmaxParameter": "axis=2:int32",
    "ConcatParameter": "concat_dim=1:uint32 axis=2:int32",
    "SliceParameter": "slice_dim=1:uint32 slice_point=2:uint32* axis=3:int32",
    "FlattenParameter": "axis=1:int32 end_axis=2:int32",
    "BatchNormParameter": "use_global_stats=1:bool moving_average_fraction=2:float eps=3:float",
    "ScaleParameter": "axis=1:int32 num_axes=2:int32 filler=3:FillerParameter bias_term=4:bool"
    " bias_filler=5:FillerParameter",
    "LayerParameter": "name=1:string type=2:string bottom=3:string* top=4:string* loss_weight=5:float*"
    " param=6:ParamSpec* blobs=7:BlobProto* include=8:NetStateRule* exclude=9:NetStateRule* phase=10:Phase"
    " propagate_down=11:bool* transform_param=100:TransformationParameter concat_param=104:ConcatParameter"
    " convolution_param=106:ConvolutionParameter dropout_param=108:DropoutParameter"
    " dummy_data_param=109:DummyDataParameter eltwise_param=110:EltwiseParameter exp_param=111:ExpParameter"
    " image_data_param=115:ImageDataParameter inner_product_param=117:InnerProductParameter lrn_param=118:LRNParameter"
    " memory_data_param=119:MemoryDataParameter pooling_param=121:PoolingParameter power_param=122:PowerParameter"
    " relu_param=123:ReLUParameter softmax_param=125:SoftmaxParameter slice_param=126:SliceParameter"
    " prelu_param=131:PReLUParameter reshape_param=133:ReshapeParameter log_param=134:LogParameter"
    " flatten_param=135:FlattenParameter batch_norm_param=139:BatchNormParameter elu_param=140:ELUParameter"
    " bias_param=141:BiasParameter scale_param=142:ScaleParameter input_param=143:InputParameter"
    " crop_param=144:CropParameter swish_param=147:SwishParameter clip_param=148:ClipParameter"
    " shuffle_channel_param=164:ShuffleChannelParameter permute_param=202:PermuteParameter"
    " norm_param=206:NormalizeBBoxParameter",
    "V1LayerParameter": "bottom=2:string* top=3:string* name=4:string type=5:LayerType blobs=6:BlobProto*"
    " blobs_lr=7:float* weight_decay=8:float* concat_param=9:ConcatParameter"
    " convolution_param=10:ConvolutionParameter dropout_param=12:DropoutParameter"
    " image_data_param=15:ImageDataParameter inner_product_param=17:InnerProductParameter lrn_param=18:LRNParameter"
    " pooling_param=19:PoolingParameter power_param=21:PowerParameter memory_data_param=22:MemoryDataParameter"
    " eltwise_param=24:EltwiseParameter dummy_data_param=26:DummyDataParameter relu_param=30:ReLUParameter"
    " slice_param=31:SliceParameter include=32:NetStateRule* exclude=33:NetStateRule* loss_weight=35:float*"
    " transform_param=36:TransformationParameter softmax_param=39:SoftmaxParameter exp_param=41:ExpParameter"
    " param=1001:string*",
    "NetParameter": "name=1:string layers=2:V1LayerParameter* input=3:string* input_dim=4:int32*"
    " force_backward=5:bool state=6:NetState debug_info=7:bool input_shape=8:BlobShape* layer=100:LayerParameter*",
}
_ENUMS = {
    "Phase": "TRAIN=0 TEST=1",
    "EltwiseOp": "PROD=0 SUM=1 MAX=2",
    "PoolMethod": "MAX=0 AVE=1 STOCHASTIC=2",
    "RoundMode": "CEIL=0 FLOOR=1",
    "NormRegion": "ACROSS_CHANNELS=0 WITHIN_CHANNEL=1",
    "LayerType": "NONE=0 ACCURACY=1 BNLL=2 CONCAT=3 CONVOLUTION=4 DATA=5 DROPOUT=6 EUCLIDEAN_LOSS=7 FLATTEN=8"
    " HDF5_DATA=9 HDF5_OUTPUT=10 IM2COL=11 IMAGE_DATA=12 INFOGAIN_LOSS=13 INNER_PRODUCT=14 LRN=15"
    " MULTINOMIAL_LOGISTIC_LOSS=16 POOLING=17 RELU=18 SIGMOID=19 SOFTMAX=20 SOFTMAX_LOSS=21 SPLIT=22 TANH=23"
    " WINDOW_DATA=24 ELTWISE=25 POWER=26 SIGMOID_CROSS_ENTROPY_LOSS=27 HINGE_LOSS=28 MEMORY_DATA=29 ARGMAX=30"
    " THRESHOLD=31 DUMMY_DATA=32 SLICE=33 MVN=34 ABSVAL=35 SILENCE=36 CONTRASTIVE_LOSS=37 EXP=38"
    " DECONVOLUTION=39",
}


def _build() -> Any:
    """Return the class of NetParameter messages, in a separate pool, which avoids conflicts with a real caffe_pb2."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sfplus/caffe.proto", package="sfplus.caffe", syntax="proto2")
    for name, values in _ENUMS.items():  # each in a message of its own: EltwiseOp and PoolMethod both have a MAX
        enum = file.message_type.add(name=name).enum_type.add(name="Value")
        for value in values.split():
            key, number = value.split("=")
            enum.value.add(name=key, number=int(number))
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            key, number, kind = text.replace(":", "=").split("=")
            base = kind.rstrip("*+")
            new_field = message.field.add(name=key, number=int(number))
            new_field.label = field.LABEL_OPTIONAL if base == kind else field.LABEL_REPEATED
            if kind.endswith("+"):
                new_field.options.packed = True
            if base in _ENUMS:
                new_field.type, new_field.type_name = field.TYPE_ENUM, f".sfplus.caffe.{base}.Value"
            elif base in _MESSAGES:
                new_field.type, new_field.type_name = field.TYPE_MESSAGE, f".sfplus.caffe.{base}"
            else:
                new_field.type = getattr(field, f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sfplus.caffe.NetParameter"))


NetParameter: Any = _build()
